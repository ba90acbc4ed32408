"""From a plan to source text: recipes, their templates, and the renderer."""
