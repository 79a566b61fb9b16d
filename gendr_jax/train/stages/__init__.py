"""The training stages.

build.py            from settings to a stage with its networks and data
size_checks.py      sizes that do not fit each other are refused
initial_weights.py  weights to start from
patch_components.py initial weights of an autoencoder's linear path
vae.py              stage 0: the autoencoder
base.py             stage 1: the UNet on 16-channel latents
distill.py          stage 2: one iteration of VSD, SiD, CiD or CiDA (algorithm 1)
pixel.py            GenDR-Adc and GenDR-Pix: pixel-shuffle in place of the autoencoder
generator_loss.py   the generator's loss and its gradient
roles.py            generator, scores and discriminator as data over one graph
samples.py          a batch of photographs to degraded pairs, noise and prompts
optimisers.py       AdamW by role, updates that skip what is not finite, EMA
accumulate.py       gradient accumulation over microbatches
"""
