"""Retrieved metadata (Ret-SLIMP): what the nearest cases of a reference suggest for a target."""
