#include "data/batches.h"
