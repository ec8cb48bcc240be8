#include "train/schedule.h"
