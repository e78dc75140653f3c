"""A run, or two side by side, as one HTML page that needs no server and no network."""

from textenv.algos.cli.page.html import page_html, write_page

__all__ = ["page_html", "write_page"]
