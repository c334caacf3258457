"""How examples are found, decoded, packed and kept."""
