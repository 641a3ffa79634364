"""A folder with a page of what was measured: tables, figures, clips, how it was trained."""
