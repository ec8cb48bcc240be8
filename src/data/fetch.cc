#include "data/fetch.h"
