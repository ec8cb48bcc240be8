#include "data/grid.h"
