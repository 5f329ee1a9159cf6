"""What a run measured, and how it is shown: live view, report and plots."""
