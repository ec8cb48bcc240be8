#include "model/device.h"
