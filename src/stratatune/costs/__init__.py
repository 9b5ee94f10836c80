"""What a plan will take: FLOPs, bytes and seconds. No torch."""
