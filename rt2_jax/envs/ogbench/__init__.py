"""OGBench: cubes, a drawer, a window and buttons before a UR5e arm, of the package ogbench."""
