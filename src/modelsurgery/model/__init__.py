"""A loaded model: loading, token ids, chat templates, hidden states, activations."""
