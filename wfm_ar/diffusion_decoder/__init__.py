"""Diffusion decoder: sharpens decoded frames, knowing the codes they were decoded from. See denoiser.py, edm.py, sampler.py."""
