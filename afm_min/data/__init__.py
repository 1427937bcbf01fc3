"""Text: where it comes from, how it is cleaned, what is held out."""
