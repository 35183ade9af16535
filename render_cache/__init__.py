"""What can be kept between frames, and when it is still true."""
