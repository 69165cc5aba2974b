"""What a pre-trained model is compared with, on the same cohort and the same splits."""
