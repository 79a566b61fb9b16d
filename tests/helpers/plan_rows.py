"""What a row of `gendr plan --json` has to name."""

CONTRACT = """topology mesh devices batch_per_device fits peak_bytes hbm_bytes
argument_bytes temp_bytes flops hbm_traffic_bytes collectives roofline_s step_s
mfu_bound images_per_s""".split()
