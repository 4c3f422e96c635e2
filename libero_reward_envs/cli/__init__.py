"""The commands of libero-reward, one thin file each."""
