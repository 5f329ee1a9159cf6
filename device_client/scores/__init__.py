"""How good scores are: ranking, calibration, and intervals by person. numpy only, so that devices without torch have
the same numbers.
"""
