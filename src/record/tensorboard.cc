#include "record/tensorboard.h"
