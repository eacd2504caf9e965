"""Networks: opening checkpoints safely, and the halves of Whisper that several commands use."""
