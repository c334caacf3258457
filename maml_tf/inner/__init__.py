"""The inner loop as one value, and update rules that learn: tensors in, tensors out."""
