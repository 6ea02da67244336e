"""Where in an image a network sees a class: heat maps of a served artifact."""
