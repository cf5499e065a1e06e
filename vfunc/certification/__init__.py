"""Is this value gradient right, on my problem? `certify` answers by finite differences."""

from vfunc.certification.certify import certify
from vfunc.certification.report import Certification, Row

__all__ = ["Certification", "Row", "certify"]
