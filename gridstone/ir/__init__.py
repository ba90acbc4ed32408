"""What is computed: dtypes, layouts, formats, storages, tensor types, specs, ops, the graph, and their text form."""
