"""Programs that measure, each writing a table into docs/."""
