#include "data/check.h"
