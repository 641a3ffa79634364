"""The network: an observation prefix that is encoded once, action tokens denoised K times."""
