"""How good the final model is: ROC curve, calibration, a table by site, and what it sees."""
