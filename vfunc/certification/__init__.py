"""Checks value gradients by finite differences, on the user's own problem: `certify`."""

from vfunc.certification.certify import certify
from vfunc.certification.report import Certification, Row

__all__ = ["Certification", "Row", "certify"]
