"""Other systems, measured beside ours in the same run. They live in virtual environments of their
own, so nothing here is imported by what is measured, and nothing here imports ours."""
