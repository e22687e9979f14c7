"""fdlib: one diffusion process, and a denoiser for every idea.

The library under the course: every denoiser shares one noise schedule, one forward process, one set of samplers
and one training loop. Import what you need: ``from fdlib.schedule import NoiseSchedule``.
"""

__version__ = "0.1.0"
