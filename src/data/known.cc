#include "data/known.h"
