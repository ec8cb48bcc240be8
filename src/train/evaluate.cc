#include "train/evaluate.h"
