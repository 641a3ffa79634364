"""The same chunks sooner: all made ahead that can be, and a CUDA graph."""
