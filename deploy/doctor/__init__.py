"""`baton doctor`: what this machine has, and what each lack costs."""

from baton.deploy.doctor.report import run_doctor

__all__ = ["run_doctor"]
