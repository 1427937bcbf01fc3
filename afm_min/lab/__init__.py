"""What runs all stages and looks at the results: the table of stages, reports, claims, export."""
