"""The report: its records, pages and charts, and two reports compared."""
