"""What a model looks at, with a number: maps over images, scored against lesion masks."""
