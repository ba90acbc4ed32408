"""Use: capture, matching, dispatch, and the tensors that hold packed weights."""
