"""Graph -> Python text: the Triton module (`triton_module`) and the plain one (`torch_module`)."""
