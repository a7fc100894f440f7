"""`headstart prepare`: put labelled images into `DATA/{train,val,test}/<class>/`."""
