"""Graph -> Graph, one verb and one equation a file; `convdsl.compiler.PIPELINE` is their order."""
