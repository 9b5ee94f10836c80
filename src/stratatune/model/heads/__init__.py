"""What turns a hidden state into logits."""
