"""One module per family of commands; each command is a few lines over a public function."""
