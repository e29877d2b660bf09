"""The study behind a report: rivals, intervals by person, and what may be claimed."""
