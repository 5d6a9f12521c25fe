"""Deliberately wrong ports, each with one planted defect, for tests of the checker."""
