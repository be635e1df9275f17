"""Two real machines: what only another kernel can show."""
