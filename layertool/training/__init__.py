"""Training: fine-tuning on listeners' responses. On transformers' Trainer, which is imported when it is needed."""
