#include "data/augment.h"
