"""What a GPU shows: speed against the bare diffusers pipeline, kernels, compilation, graphs, loading, cancels."""
