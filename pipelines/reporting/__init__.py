"""The report of a run: tables, pictures, and the page that holds them."""
