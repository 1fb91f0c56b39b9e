"""Graph -> Graph, one verb and one equation a file; `convdsl.pipeline.PIPELINE` is their order."""
