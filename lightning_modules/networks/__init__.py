"""Networks: plain `nn.Module` classes without Lightning."""
